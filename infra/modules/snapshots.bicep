// The account that Customer Insights writes to: its own, apart from the app's state. Or an account that is there:
// then only the container, roles and topic are added, and its soft delete must be switched off by its owner.

import { roles } from 'roles.bicep'

param token string

@description('Region of the account; a system topic is always where its account is.')
param location string
param tags object
param appPrincipalId string
param containerName string
param redundancy string

@description('Name of an account in this resource group; empty makes one.')
param existingAccountName string

@description('Name of the account\'s Event Grid system topic, where it has one: an account can have no second. Empty makes one.')
param existingTopicName string

@description('Object id, in this tenant, of the service principal of Customer Insights. Empty gives it no role.')
param customerInsightsObjectId string

@description('Object id of the person or group that makes the connection in Customer Insights. Empty gives no role.')
param customerInsightsAdminObjectId string
param customerInsightsAdminType string

@description('Object id of the person who operates the app. Empty gives no role.')
param operatorObjectId string
param operatorType string

@description('Days after which snapshots in the account made here are deleted; 0 keeps them.')
param keepDays int

@description('Whether the account made here can be reached from the internet, by those who have a role.')
param publicAccess bool

var newAccountName = 'stsnap${token}'
var newTopicName = 'egst-${token}'
var accountName = empty(existingAccountName) ? newAccountName : existingAccountName

resource account 'Microsoft.Storage/storageAccounts@2025-06-01' = if (empty(existingAccountName)) {
  name: newAccountName
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: { name: redundancy }
  properties: {
    accessTier: 'Hot'
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: publicAccess ? 'Enabled' : 'Disabled'
    networkAcls: { defaultAction: publicAccess ? 'Allow' : 'Deny', bypass: 'AzureServices' }
  }
}

// Customer Insights' export fails on an account with soft delete (Microsoft Learn, "Export data to an Azure Blob
// Storage", 2026-07-16). So it is written out as off, for blobs and for containers.
resource softDeleteOff 'Microsoft.Storage/storageAccounts/blobServices@2025-06-01' = if (empty(existingAccountName)) {
  parent: account
  name: 'default'
  properties: {
    deleteRetentionPolicy: { enabled: false }
    containerDeleteRetentionPolicy: { enabled: false }
    isVersioningEnabled: false
  }
}

// Always written out: a deployment takes nothing away, so a rule that was left out would go on deleting.
resource retention 'Microsoft.Storage/storageAccounts/managementPolicies@2025-06-01' = if (empty(existingAccountName)) {
  parent: account
  name: 'default'
  dependsOn: [softDeleteOff]
  properties: {
    policy: {
      rules: [
        {
          name: 'old-snapshots'
          type: 'Lifecycle'
          enabled: keepDays > 0
          definition: {
            filters: { blobTypes: ['blockBlob', 'appendBlob'], prefixMatch: ['${containerName}/'] }
            actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: max(keepDays, 1) } } }
          }
        }
      ]
    }
  }
}

resource usedAccount 'Microsoft.Storage/storageAccounts@2025-06-01' existing = {
  name: accountName
}

resource usedBlobs 'Microsoft.Storage/storageAccounts/blobServices@2025-06-01' existing = {
  parent: usedAccount
  name: 'default'
}

resource container 'Microsoft.Storage/storageAccounts/blobServices/containers@2025-06-01' = {
  parent: usedBlobs
  name: containerName
  dependsOn: [softDeleteOff]
  properties: { publicAccess: 'None' }
}

// Customer Insights: data of this container alone.
resource customerInsightsWrites 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(customerInsightsObjectId)) {
  name: guid(container.id, customerInsightsObjectId, roles.storageBlobDataContributor)
  scope: container
  properties: {
    principalId: customerInsightsObjectId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataContributor)
  }
}

// It signs what it writes with a key of its own that the account gives it (a user delegation key), which can be asked
// for at the account only. By itself the role reads and writes nothing. Source: Microsoft Learn, "Connect to Azure Data
// Lake Storage using a service principal" (2026-07-13).
resource customerInsightsSigns 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(customerInsightsObjectId)) {
  name: guid(usedAccount.id, customerInsightsObjectId, roles.storageBlobDelegator)
  scope: usedAccount
  dependsOn: [account]
  properties: {
    principalId: customerInsightsObjectId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDelegator)
  }
}

// Who makes the connection there must reach what is in the container, and find the account in the list. An operator has
// the former already, and the same right cannot be given twice.
var adminIsOperator = customerInsightsAdminObjectId == operatorObjectId

resource adminWrites 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(customerInsightsAdminObjectId) && !adminIsOperator) {
  name: guid(container.id, customerInsightsAdminObjectId, roles.storageBlobDataContributor)
  scope: container
  properties: {
    principalId: customerInsightsAdminObjectId
    principalType: customerInsightsAdminType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataContributor)
  }
}

resource adminFinds 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(customerInsightsAdminObjectId)) {
  name: guid(usedAccount.id, customerInsightsAdminObjectId, roles.reader)
  scope: usedAccount
  dependsOn: [account]
  properties: {
    principalId: customerInsightsAdminObjectId
    principalType: customerInsightsAdminType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.reader)
  }
}

// The blob trigger's documented role is Owner. The container is all that it gets it on.
resource appReads 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(container.id, appPrincipalId, roles.storageBlobDataOwner)
  scope: container
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataOwner)
  }
}

// The trigger puts events that failed five times into the queue webjobs-blobtrigger-poison of this account.
resource appQueues 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(usedAccount.id, appPrincipalId, roles.storageQueueDataContributor)
  scope: usedAccount
  dependsOn: [account]
  properties: {
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageQueueDataContributor)
  }
}

resource operatorWrites 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(operatorObjectId)) {
  name: guid(container.id, operatorObjectId, roles.storageBlobDataContributor)
  scope: container
  properties: {
    principalId: operatorObjectId
    principalType: operatorType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataContributor)
  }
}

resource operatorQueues 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(operatorObjectId)) {
  name: guid(usedAccount.id, operatorObjectId, roles.storageQueueDataContributor)
  scope: usedAccount
  dependsOn: [account]
  properties: {
    principalId: operatorObjectId
    principalType: operatorType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageQueueDataContributor)
  }
}

// The subscription to this topic is made after deployment, by infra/hooks/event_subscription.py: its webhook answers
// only once the code runs.
resource topic 'Microsoft.EventGrid/systemTopics@2025-02-15' = if (empty(existingTopicName)) {
  name: newTopicName
  location: location
  tags: tags
  dependsOn: [account]
  properties: {
    source: usedAccount.id
    topicType: 'Microsoft.Storage.StorageAccounts'
  }
}

output accountName string = accountName
output accountId string = usedAccount.id
output topicId string = resourceId('Microsoft.EventGrid/systemTopics', empty(existingTopicName) ? newTopicName : existingTopicName)
