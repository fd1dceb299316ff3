// The function app on Flex Consumption, and who may reach it.

param token string
param location string
param tags object
param identityId string
param identityClientId string
param stateAccountName string
param packageContainerName string
param snapshotsAccountName string
param insightsName string
param settings object
param instanceMemoryMB int
param maximumInstanceCount int

@description('Subnet for the app; empty for none.')
param subnetId string

@description('Client id of the app registration that people sign in to; empty leaves App Service authentication off.')
param authClientId string

var storageSuffix = environment().suffixes.storage
var withAuthentication = !empty(authClientId)

resource insights 'Microsoft.Insights/components@2020-02-02' existing = {
  name: insightsName
}

resource plan 'Microsoft.Web/serverfarms@2024-11-01' = {
  name: 'plan-${token}'
  location: location
  tags: tags
  kind: 'functionapp'
  sku: { name: 'FC1', tier: 'FlexConsumption' }
  properties: { reserved: true }
}

resource site 'Microsoft.Web/sites@2024-11-01' = {
  name: 'func-${token}'
  location: location
  tags: union(tags, { 'azd-service-name': 'exporter' })
  kind: 'functionapp,linux'
  identity: { type: 'UserAssigned', userAssignedIdentities: { '${identityId}': {} } }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    clientAffinityEnabled: false
    publicNetworkAccess: 'Enabled' // Event Grid delivers from outside; what it may call is behind a key
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    siteConfig: { minTlsVersion: '1.2' }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: 'https://${stateAccountName}.blob.${storageSuffix}/${packageContainerName}'
          authentication: { type: 'UserAssignedIdentity', userAssignedIdentityResourceId: identityId }
        }
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        // Python's own default is one: a page that asks for six things would start six instances. Requests have threads
        // of their own, and an instance that answers them does no other work.
        triggers: { http: { perInstanceConcurrency: 8 } }
      }
      runtime: { name: 'python', version: '3.13' }
    }
  }

  resource ftp 'basicPublishingCredentialsPolicies' = {
    name: 'ftp'
    properties: { allow: false }
  }

  resource scm 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: { allow: false }
  }
}

// Two steps do heavy work at a time (work_places.py); the smallest instance has room for little more than host and code.
// Its temporary disk has 0.8 GB, whatever its memory.
var instanceSettings = {
  MEMORY_MB: string(instanceMemoryMB == 512 ? 96 : instanceMemoryMB / 4)
  DISK_MB: '800'
}

var hostSettings = {
  AzureWebJobsStorage__accountName: stateAccountName
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identityClientId
  // A blob trigger needs both: events that failed too often go to a queue of the same account.
  SnapshotsStorage__blobServiceUri: 'https://${snapshotsAccountName}.blob.${storageSuffix}'
  SnapshotsStorage__queueServiceUri: 'https://${snapshotsAccountName}.queue.${storageSuffix}'
  SnapshotsStorage__credential: 'managedidentity'
  SnapshotsStorage__clientId: identityClientId
  StateStorage__blobServiceUri: 'https://${stateAccountName}.blob.${storageSuffix}'
  StateStorage__queueServiceUri: 'https://${stateAccountName}.queue.${storageSuffix}'
  StateStorage__credential: 'managedidentity'
  StateStorage__clientId: identityClientId
  AZURE_CLIENT_ID: identityClientId // which identity DefaultAzureCredential takes, for the vault
  PYTHON_THREADPOOL_THREAD_COUNT: '16' // eight messages and some requests; the default is five on one core
}

// With local authentication off, the connection string opens nothing: it says where telemetry goes.
var telemetrySettings = {
  APPLICATIONINSIGHTS_CONNECTION_STRING: insights.properties.ConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
  PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY: 'true'
  PYTHON_APPLICATIONINSIGHTS_LOGGER_NAME: 'exporter' // our own records only
  // Automatic spans hold whole addresses, and Klaviyo's filters hold e-mails in theirs: never switch these on.
  OTEL_PYTHON_DISABLED_INSTRUMENTATIONS: 'azure_sdk,django,fastapi,flask,httpx,psycopg2,requests,urllib,urllib3'
  OTEL_TRACES_SAMPLER: 'always_on' // a run is a few hundred spans; the default keeps five a second
}

// Signs the app in to its registration with its identity instead of a client secret.
var authenticationSettings = withAuthentication
  ? {
      OVERRIDE_USE_MI_FIC_ASSERTION_CLIENTID: identityClientId
      SIGN_IN_CLIENT_ID: authClientId
      TRUST_PLATFORM_IDENTITY: 'true'
      WEBSITE_AUTH_AAD_ALLOWED_TENANTS: tenant().tenantId
    }
  : {}

resource appSettings 'Microsoft.Web/sites/config@2024-11-01' = {
  parent: site
  name: 'appsettings'
  properties: union(instanceSettings, settings, hostSettings, telemetrySettings, authenticationSettings)
}

var entra = {
  enabled: true
  registration: {
    clientId: authClientId
    clientSecretSettingName: 'OVERRIDE_USE_MI_FIC_ASSERTION_CLIENTID'
    openIdIssuer: '${environment().authentication.loginEndpoint}${tenant().tenantId}/v2.0'
  }
  validation: { allowedAudiences: [authClientId, 'api://${authClientId}'] }
}

// Written out also where it is off: left out, it would stay on after AUTH_CLIENT_ID was emptied, without its settings.
resource authentication 'Microsoft.Web/sites/config@2024-11-01' = {
  parent: site
  name: 'authsettingsV2'
  dependsOn: [appSettings]
  properties: {
    platform: { enabled: withAuthentication, runtimeVersion: '~1' }
    globalValidation: {
      requireAuthentication: withAuthentication
      unauthenticatedClientAction: withAuthentication ? 'RedirectToLoginPage' : 'AllowAnonymous'
      redirectToProvider: 'azureactivedirectory'
      // Event Grid comes with its own key; health says nothing that is secret, and monitors have no account.
      excludedPaths: ['/runtime/webhooks/blobs', '/api/health']
    }
    identityProviders: {
      azureActiveDirectory: withAuthentication ? entra : { enabled: false }
    }
    httpSettings: { requireHttps: true }
    login: { tokenStore: { enabled: false } }
  }
}

output name string = site.name
output uri string = 'https://${site.properties.defaultHostName}'
